"""Reports in the terms of a field, over any run's predictions: clinical, safety-critical, financial, recommendation."""
