"""What a run will cost, and what would stop it, before anything runs."""
