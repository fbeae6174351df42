"""What runs inside the container images."""
