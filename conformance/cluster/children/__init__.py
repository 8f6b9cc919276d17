"""What runs in the children of an agent, on the devices of its host."""
