"""Where models and SAEs come from, how their files are read, and what they need of a machine."""
