"""The control plane of one replica: lifecycle, rollouts, and the loop that follows the records."""
