"""One file for each rung of the ladder; `laws.toml` says in words what each check asks."""
