"""What is served on which path. Every file adds its routes to the application with `add_routes(app, service)`."""
