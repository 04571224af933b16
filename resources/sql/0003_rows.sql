-- The ledger, version 3: a finished batch is continued without planning it again.

-- The row of a prompt file that an item was wanted by: a hash of the row and of all else that decides what it wants, and
-- how many images it asks for, each an item with the same hash. NULL where that is not known: then it is planned again.
-- It belongs to the values the item is made with: while the hash is the same, so are they.
ALTER TABLE item ADD COLUMN row_key BLOB;
ALTER TABLE item ADD COLUMN row_images INTEGER;
CREATE INDEX item_by_row ON item (batch_id, row_key, row_images)
    WHERE state = 'stored' AND occurrence = 0 AND row_key IS NOT NULL;
