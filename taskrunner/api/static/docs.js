// A file of its own, because the page's Content-Security-Policy allows no inline script.
SwaggerUIBundle({
  dom_id: "#docs",
  url: "openapi.json",
  deepLinking: true,
  displayRequestDuration: true,
  validatorUrl: null,
});
