"""The command `qs-report`: check, run, and show the notebooks on a preset."""
