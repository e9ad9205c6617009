"""The full evaluation of a trained model: what is measured, the measuring, the page, and where it is recorded."""
