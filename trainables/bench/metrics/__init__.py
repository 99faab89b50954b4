"""What is measured of a model: quality, size, speed."""
