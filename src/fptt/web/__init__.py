"""A page in the browser on which a trained detector shows what it sees."""
