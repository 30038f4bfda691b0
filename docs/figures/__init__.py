"""The figures of the pages: each module writes one SVG file beside it."""
