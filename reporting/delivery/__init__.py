"""Delivery to the PACS: C-STORE as a service class user, and the loop that sends what the outbox holds."""
