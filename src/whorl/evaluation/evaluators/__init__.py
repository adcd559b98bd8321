"""Ways of judging samples, one a file."""
