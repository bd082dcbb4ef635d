package main

import (
	"encoding/binary"
	"fmt"
	"log"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

type stored []tlog.Hash

func (s *stored) ReadHashes(indexes []int64) ([]tlog.Hash, error) {
	out := make([]tlog.Hash, len(indexes))
	for i, at := range indexes {
		out[i] = (*s)[at]
	}
	return out, nil
}

func must[T any](value T, err error) T {
	if err != nil {
		log.Fatal("FAILED: ", err)
	}
	return value
}

func main() {
	folder, vkey := os.Args[1], os.Args[2]
	verifier := must(note.NewVerifier(vkey))
	signed := must(note.Open(must(os.ReadFile(filepath.Join(folder, "checkpoint"))), note.VerifierList(verifier)))
	lines := strings.Split(signed.Text, "\n")
	var size int64
	must(fmt.Sscanf(lines[1], "%d", &size))
	hashes := &stored{}
	for start := int64(0); start < size; start += 256 {
		tile := tlog.Tile{H: 8, L: -1, N: start / 256, W: int(min(256, size-start))}
		path := strings.Replace(tile.Path(), "tile/8/data", "tile/entries", 1)
		bundle := must(os.ReadFile(filepath.Join(folder, path)))
		for i := start; i < start+int64(tile.W); i++ {
			end := 2 + int(binary.BigEndian.Uint16(bundle))
			*hashes = append(*hashes, must(tlog.StoredHashes(i, bundle[2:end], hashes))...)
			bundle = bundle[end:]
		}
	}
	if root := must(tlog.TreeHash(size, hashes)); root.String() != lines[2] {
		log.Fatal("FAILED: the entries do not hash to the checkpoint's root")
	}
	fmt.Println(lines[0], "size", size, "root", lines[2], "signed by", signed.Sigs[0].Name)
}
