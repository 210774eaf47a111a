"""Data sets as they are downloaded: their layouts, their label values, and the splits of the papers."""
