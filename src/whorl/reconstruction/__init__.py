"""From features back to structures."""
