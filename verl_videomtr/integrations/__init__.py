"""Other projects' ways in; each module needs that project."""
