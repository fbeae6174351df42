"""How the suite is run: the embedded local runner, image, compose, Helm chart, observability."""
