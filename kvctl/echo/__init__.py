"""A server that answers with the source it saw, and the line that it is asked and answers with."""
