"""Images with masks: drawn, read, checked, written."""
