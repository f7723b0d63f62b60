"""Stream the tensors of a plan into files: on threads, in processes, or on a Ray cluster."""
