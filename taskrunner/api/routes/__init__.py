"""The API's paths: one module a resource."""
