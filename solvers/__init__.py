"""The posterior: operators, the update, and one file per solver."""
