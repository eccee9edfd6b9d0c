// Draws the heat map and the bounding box of a tag over the photo.

export function draw(canvas, photo, tag) {
  canvas.width = canvas.clientWidth;
  canvas.height = canvas.clientHeight;
  const pen = canvas.getContext("2d");
  pen.clearRect(0, 0, canvas.width, canvas.height);
  if (!tag) return;
  if (tag.heat) drawHeat(pen, canvas, tag.heat);
  if (tag.box) drawBox(pen, canvas.width / photo.width, canvas.height / photo.height, tag.box);
}

function drawHeat(pen, canvas, heat) {
  const [height, width] = [heat.length, heat[0].length];
  const small = new OffscreenCanvas(width, height);
  const image = new ImageData(width, height);
  heat.flat().forEach((value, number) => image.data.set([255, 0, 200, Math.round(value * 150)], 4 * number));
  small.getContext("2d").putImageData(image, 0, 0);
  pen.imageSmoothingQuality = "high";
  pen.drawImage(small, 0, 0, canvas.width, canvas.height);
}

function drawBox(pen, across, down, [left, top, right, bottom]) {
  const sides = [left * across, top * down, (right - left) * across, (bottom - top) * down];
  pen.lineWidth = 5;
  pen.strokeStyle = "#000";
  pen.strokeRect(...sides);
  pen.lineWidth = 2;
  pen.strokeStyle = "#fff";
  pen.strokeRect(...sides);
}
