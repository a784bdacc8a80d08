(() => {
  "use strict";

  /** A new element of a class within another, with a text. */
  function added(parent, tag, name, text) {
    const element = document.createElement(tag);
    element.className = name;
    element.textContent = text || "";
    parent.append(element);
    return element;
  }

  /** The picture of a PNG file in base64, once it is read. */
  async function picture(data) {
    const image = new Image();
    image.src = "data:image/png;base64," + data;
    await image.decode();
    return image;
  }

  function drawn(parent, image) {
    const canvas = added(parent, "canvas", "");
    [canvas.width, canvas.height] = [image.naturalWidth, image.naturalHeight];
    canvas.getContext("2d").drawImage(image, 0, 0);
    return canvas;
  }

  /** Image with a caption, and a frame for each scale. */
  function framed(parent, image, caption, scales) {
    const column = added(parent, "div", "column");
    added(column, "div", "", caption);
    const area = added(column, "div", "picture");
    drawn(area, image);
    const frames = scales.map((scale) => {
      const frame = added(area, "div", "frame");
      frame.style.borderColor = scale.colour;
      frame.style.width = frame.style.height = (100 * scale.patch) / scale.side + "%";
      return frame;
    });
    return { area, frames };
  }

  function put(frame, scale, row, column) {
    frame.style.top = (100 * row) / scale.side + "%";
    frame.style.left = (100 * column) / scale.side + "%";
  }

  /** The panel of a scale: bars for the votes, and the patch beside its nearest. */
  function panel(parent, data, scale) {
    const box = added(parent, "div", "scale");
    box.style.borderTopColor = scale.colour;
    added(box, "div", "", scale.side + " px");
    const bars = added(box, "div", "bars");
    const columns = data.names.map(() => added(bars, "div", "bar"));
    for (const bar of columns) bar.style.background = scale.colour;
    added(bars, "div", "chance").style.bottom = 100 / data.names.length + "%";
    const names = added(box, "div", "names");
    for (const name of data.names) added(names, "span", "", name);
    const mean = added(box, "div", "mean");
    const pair = added(box, "div", "pair");
    const canvases = ["patch", "nearest"].map((name) => {
      const half = added(pair, "div", name, name);
      const canvas = added(half, "canvas", "");
      canvas.width = canvas.height = scale.patch;
      return canvas;
    });
    return { columns, mean, canvases, distance: added(box, "div", "distance") };
  }

  async function start(root) {
    const data = JSON.parse(root.querySelector("script[type='application/json']").textContent);
    root.dataset.ready = "";
    const sources = [data.picture, data.training];
    for (const scale of data.scales) sources.push(scale.image, scale.training);
    const images = await Promise.all(sources.map(picture));
    added(root, "style", "", data.style);
    const box = added(root, "div", "");
    added(box, "p", "", "Point at a patch, click to hold it, or move it with the arrow keys.");
    const pictures = added(box, "div", "pictures");
    const test = framed(pictures, images[0], "test image", data.scales);
    const training = framed(pictures, images[1], "training image", data.scales);
    const said = added(box, "p", "said");
    said.setAttribute("aria-live", "polite");
    const panels = added(box, "div", "scales");
    const parts = data.scales.map((scale) => panel(panels, data, scale));
    const finest = data.scales[data.scales.length - 1];
    let [y, x] = data.start;
    let held = false;

    /** The first row, or column, of the patch of a scale that is nearest to a place. */
    function first(scale, share) {
      const place = Math.floor(share * scale.side - scale.patch / 2 + 0.5);
      return Math.min(Math.max(place, 0), scale.side - scale.patch);
    }

    function show() {
      const means = data.scales.map((scale, n) => {
        const [row, column] = [first(scale, y), first(scale, x)];
        const number = row * (scale.side - scale.patch + 1) + column;
        const [other, otherColumn] = scale.nearest.slice(2 * number, 2 * number + 2);
        const part = parts[n];
        const votes = scale.votes.map((ofCopy) => ofCopy[number]);
        votes.forEach((vote, m) => {
          part.columns[m].style.height = (vote || 0) / 10 + "%";
          part.columns[m].dataset.vote = vote;
          const text = vote === null ? "no vote, the copy cuts the patch" : (vote / 1000).toFixed(2);
          part.columns[m].title = data.names[m] + ": " + text;
        });
        const given = votes.filter((vote) => vote !== null);
        const mean = (given.reduce((a, b) => a + b, 0) / given.length / 1000).toFixed(2);
        part.mean.textContent = "mean " + mean;
        part.distance.textContent = "distance " + (scale.distances[number] / 1000).toFixed(2);
        put(test.frames[n], scale, row, column);
        put(training.frames[n], scale, other, otherColumn);
        part.canvases[0].getContext("2d").drawImage(images[2 + 2 * n], -column, -row);
        part.canvases[1].getContext("2d").drawImage(images[3 + 2 * n], -otherColumn, -other);
        return mean;
      });
      said.textContent =
        "Mean votes " + means.join(", ") + ", coarsest scale first. Guessing gives " +
        (1 / data.names.length).toFixed(2) + ".";
    }

    function point(event) {
      const area = test.area.getBoundingClientRect();
      y = (event.clientY - area.top) / area.height;
      x = (event.clientX - area.left) / area.width;
      show();
    }

    test.area.tabIndex = 0;
    test.area.setAttribute("role", "application");
    test.area.setAttribute("aria-label", "Test image: the arrow keys move the patch.");
    // JupyterLab has shortcuts of its own for the arrow keys.
    root.dataset.lmSuppressShortcuts = "true";
    test.area.addEventListener("pointermove", (event) => held || point(event));
    test.area.addEventListener("click", (event) => {
      point(event);
      held = !held;
    });
    test.area.addEventListener("keydown", (event) => {
      const moves = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };
      const move = moves[event.key];
      if (!move) return;
      event.preventDefault();
      event.stopPropagation();
      const last = finest.side - finest.patch;
      [y, x] = [y, x].map((share, axis) => {
        const place = Math.min(Math.max(first(finest, share) + move[axis], 0), last);
        return (place + finest.patch / 2) / finest.side;
      });
      held = true;
      show();
    });
    show();
  }

  for (const root of document.querySelectorAll(".htdg-patch-votes:not([data-ready])")) start(root);
})();
