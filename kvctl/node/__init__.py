"""The node itself: its addresses, interfaces and routes."""
