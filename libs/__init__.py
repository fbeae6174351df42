"""Libraries shared by the services; they know no service and no deployment."""
