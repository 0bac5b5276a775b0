"""What a run will take, and what would stop it, before anything runs."""
