"""Publishing models, and their cards."""
