"""What a map is made of: its grid, its layers, where they can be trusted, and the files it is written to."""
