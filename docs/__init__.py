"""Sources of the pages; a package, so that its figures can be run as modules."""
