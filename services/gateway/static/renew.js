// Reloads the page while a model loads, so that its progress is seen; not while a field has focus.

setTimeout(() => {
  if (document.activeElement === document.body) location.reload();
}, 1500);
