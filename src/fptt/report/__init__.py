"""What the folder of evidence says: its contents, the published figures beside them, and the page of both."""
