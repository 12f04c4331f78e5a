"""Reading photos, writing results."""
