// One dialog, for whatever has to be asked. Its promise gives the answer, or null.

function ask(title, fields, read) {
  const dialog = $("dialog");
  const before = document.activeElement;
  $("dialog-title").textContent = title;
  $("dialog-body").replaceChildren(...fields);
  $("dialog-error").textContent = "";
  $("dialog-cancel").hidden = !read;
  return new Promise((resolve) => {
    const end = (answer) => {
      dialog.close();
      before?.focus?.();
      resolve(answer);
    };
    $("dialog-form").onsubmit = (event) => {
      event.preventDefault();
      try {
        end(read ? read() : null);
      } catch (error) {
        if (!(error instanceof Wrong)) throw error;
        $("dialog-error").textContent = error.message;
      }
    };
    $("dialog-cancel").onclick = () => end(null);
    dialog.oncancel = () => end(null);
    dialog.showModal();
    (dialog.querySelector("#dialog-body input, #dialog-body select") ?? $("dialog-ok")).focus();
  });
}

function field(label, properties) {
  const input = make("input", { autocomplete: "off", spellcheck: "false", ...properties });
  return { input, node: make("label", { text: label }, input) };
}

function choice(label, options) {
  const input = make("select", {}, ...options.map((text) => make("option", { value: text, text })));
  return { input, node: make("label", { text: label }, input) };
}
