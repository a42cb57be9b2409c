"""Species at points, on maps and in the app."""
