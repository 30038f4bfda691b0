"""The compression curve: many compressions, in processes or on a cluster."""
