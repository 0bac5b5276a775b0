"""Image+mask pairs: drawn, fetched, checked, read, written, and held out for tests."""
