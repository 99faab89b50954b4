"""What `launch --check` says of a cluster, its services and its cards, before the first trial."""
