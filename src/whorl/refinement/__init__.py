"""From structures to better structures."""
