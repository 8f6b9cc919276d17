"""A wrong run of a trainer -> further runs of it, and what they show about the place of the fault."""
