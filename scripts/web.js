// What the page does in the browser by itself: sending a file, drawing a mask.
window.page = {
  sent: Promise.resolve(),

  post: (kind, body, query = "") => fetch(`/${kind}/${document.querySelector("[data-token]").dataset.token}${query}`,
    { method: "POST", body }).then((reply) => reply.json()),

  async send(input) {
    const said = document.getElementById("said"), file = input.files[0]
    const suffix = (file.name.toLowerCase().match(/(\.nii\.gz|\.[a-z0-9]+)$/) || [""])[0]
    said.textContent = "sending …"
    const answer = await page.post("scan", file, `?suffix=${suffix}`).catch(() => ({ refused: "the file could not be sent" }))
    said.textContent = answer.refused || ""
    if (!answer.refused) document.getElementById("arrived").click()
    input.value = ""
  },

  // What is drawn on the canvas above the scan is the hole; a mask is white where pixels were measured.
  drawing(element) {
    const stroke = (event) => {
      const canvas = event.target
      if (canvas.id !== "hole") return
      if (event.type === "pointerdown") canvas.setPointerCapture(event.pointerId) // to be told when it ends beside the scan
      if (!canvas.hasPointerCapture(event.pointerId)) return
      event.preventDefault()
      const brush = canvas.getContext("2d"), here = [event.offsetX, event.offsetY + 0.01] // or a dot were no line
      const from = event.type === "pointerdown" ? [event.offsetX, event.offsetY] : canvas.from
      brush.setTransform(canvas.width / canvas.clientWidth, 0, 0, canvas.height / canvas.clientHeight, 0, 0)
      Object.assign(brush, { strokeStyle: "rgb(0 104 116)", lineCap: "round", lineWidth: canvas.clientWidth / 12 })
      brush.beginPath()
      brush.moveTo(...from)
      brush.lineTo(...here)
      brush.stroke()
      brush.resetTransform()
      canvas.from = here
    }
    const clear = (canvas) => { canvas.getContext("2d").clearRect(0, 0, canvas.width, canvas.height); page.sendMask(canvas) }
    element.addEventListener("dblclick", (event) => { if (event.target.id === "hole") clear(event.target) })
    for (const name of ["pointerdown", "pointermove"]) element.addEventListener(name, stroke)
    element.addEventListener("pointerup", (event) => { if (event.target.id === "hole") page.sendMask(event.target) })
    let last = {}
    new MutationObserver(() => { // drawn anew, in another window or of another slice: the hole stays; of another scan: it goes
      const hole = element.querySelector("#hole"), scan = hole?.dataset.scan
      if (hole && hole !== last.hole && scan === last.scan) hole.getContext("2d").drawImage(last.hole, 0, 0)
      if (hole && hole === last.hole && scan !== last.scan) hole.getContext("2d").clearRect(0, 0, hole.width, hole.height)
      last = hole ? { hole, scan } : last
    }).observe(element, { childList: true, subtree: true, attributes: true, attributeFilter: ["data-scan"] })
  },

  async sendMask(canvas) {
    const drawn = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height)
    const measured = drawn.data.filter((_, i) => i % 4 === 3).map((alpha) => (alpha > 127 ? 0 : 255))
    page.sent = page.sent.then(() => page.post("mask", measured, `?width=${canvas.width}`)) // one after another
    await page.sent
    document.getElementById("drawn").click()
  },
}
