"""Folder runs: many photos from files to results, resumable, shared out to shards or a Ray cluster."""
