/** Cuts a byte stream into lines, holding no more than `maxBytes` of an unfinished one. */
export class LineReader {
  readonly #maxBytes: number
  #chunks: Buffer[] = []
  #held = 0

  constructor(maxBytes: number) {
    this.#maxBytes = maxBytes
  }

  /** The lines that `chunk` completes, without their newlines. Throws a RangeError past the bound. */
  push(chunk: Buffer): string[] {
    const lines: string[] = []
    let start = 0
    for (let end = chunk.indexOf(0x0a); end !== -1; end = chunk.indexOf(0x0a, start)) {
      this.#hold(chunk.subarray(start, end))
      lines.push(this.#take())
      start = end + 1
    }
    this.#hold(chunk.subarray(start))
    return lines
  }

  #hold(part: Buffer): void {
    this.#held += part.length
    if (this.#held > this.#maxBytes) throw new RangeError(`a line is longer than ${this.#maxBytes} bytes`)
    if (part.length > 0) this.#chunks.push(part)
  }

  // Decodes whole lines only: a chunk may end inside a UTF-8 sequence.
  #take(): string {
    const line = Buffer.concat(this.#chunks, this.#held).toString('utf8')
    this.#chunks = []
    this.#held = 0
    return line
  }
}
