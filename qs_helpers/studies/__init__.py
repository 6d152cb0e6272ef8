"""Procedures that one notebook uses, parked here until the lessons take them over."""
