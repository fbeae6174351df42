"""Data generators and training pipelines that produce what lies in `models/`."""
