// Where a browser shows the operator's token.

import { h } from "./dom.js";
import { code } from "./parts.js";

export const signIn = {
  title: () => "Sign in",
  topics: () => [],
  draw: () => [
    h(
      "section",
      { class: "panel sign-in" },
      h("h1", { tabindex: "-1" }, "Sign in"),
      h("p", null, "From another machine, this page is for the cluster’s operator. The token is in the file ", code("operator-token"), " in the folder of the supernode’s state, such as ", code("/var/lib/shoal-supernode"), "."),
      h(
        "form",
        { class: "controls", "data-form": "sign-in", "data-key": "sign-in" },
        h("input", { type: "text", name: "username", value: "operator", autocomplete: "username", hidden: true }), // for password managers
        h("label", { class: "wide" }, "Operator’s token", h("input", { type: "password", name: "token", required: true, autocomplete: "current-password", maxlength: 4096 })),
        h("button", { type: "submit", class: "primary" }, "Sign in"),
        h("p", { class: "failure", role: "alert", "data-own": true }),
      ),
      location.protocol === "http:" && !/^(localhost|127\..*|\[::1\])$/.test(location.hostname)
        ? h("p", { class: "warning" }, "This connection is not encrypted: who can overhear it learns the token. ", code("supernode.operations.cert_file"), " and ", code("key_file"), " give the port TLS; ", code("ssh -L 5091:127.0.0.1:5091 HOST"), " needs no token.")
        : null,
    ),
  ],
  async submit(form, { signIn: enter }) {
    await enter(new FormData(form).get("token").trim());
  },
};
