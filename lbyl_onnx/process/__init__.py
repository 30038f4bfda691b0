"""The processes of the command line: a parent, and the child that works on models."""
