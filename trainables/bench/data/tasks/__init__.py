"""What an item of each task is, and how items become the batches a model takes."""
