// The live parts of a page: sections that changed come as server-sent events and take the place of the old ones.
// Without this script every page shows what was when it was loaded.
"use strict";
(() => {
  const source = document.body.dataset.live;
  if (!source || !("EventSource" in window)) return;
  const when = document.getElementById("when");
  const clock = new Intl.DateTimeFormat("en-GB", { timeStyle: "medium", timeZone: "UTC" });
  let stream;

  // What has the focus keeps it: by its id, or by its place among the links and buttons of its section.
  const reachable = (section) => [...section.querySelectorAll("a, button, input, textarea, select, summary")];
  const replace = ({ id, html }) => {
    const section = document.getElementById(id);
    if (!section) return;
    const open = [...section.querySelectorAll("details")].map((details) => details.open);
    const place = reachable(section).indexOf(document.activeElement);
    section.innerHTML = html;
    section.querySelectorAll("details").forEach((details, at) => { details.open = open[at] ?? details.open; });
    if (place >= 0) reachable(section)[place]?.focus({ preventScroll: true });
  };

  const connect = () => {
    stream = new EventSource(source);
    stream.addEventListener("section", (event) => replace(JSON.parse(event.data)));
    stream.addEventListener("seen", (event) => {
      document.body.dataset.state = "live";
      if (when) when.textContent = `live, ${clock.format(new Date(Number(event.data)))} UTC`;
    });
    stream.addEventListener("error", () => {
      document.body.dataset.state = "lost";
      if (when) when.textContent = `not live: what is shown is as of ${when.textContent.replace(/^.*?(\d\d:)/, "$1")}`;
      // A stream that was refused does not come back by itself.
      if (stream.readyState === EventSource.CLOSED) setTimeout(connect, 5000);
    });
  };
  connect();
})();
