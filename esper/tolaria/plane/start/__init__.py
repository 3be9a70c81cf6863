"""The opening of a run at the services, and what makes its wishes impossible."""
