"""An ensemble that answers over HTTP: limits, a sentence for every refusal, a new model without a pause."""
